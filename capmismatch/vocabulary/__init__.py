"""What the words and columns mean: explain, and lists of the methods and probes."""
