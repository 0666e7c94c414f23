"""What each process begins with: its environment, its log, its signs of life."""
