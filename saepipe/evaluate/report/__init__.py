"""Report on runs as one HTML page: the data (story), the charts, their order (sections), and the page itself."""
