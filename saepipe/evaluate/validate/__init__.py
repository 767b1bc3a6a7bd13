"""Does a penalty do what it claims? Answered where the features are known, at matched L0, against a placebo."""
