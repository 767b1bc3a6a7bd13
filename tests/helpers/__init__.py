"""What the tests share: made-up caches, runs and results, and stand-ins for hubs, browsers and devices."""
