"""What is made once and sealed: artifact folders, folders that appear whole, and the findings kept in health.json."""
