"""Licensed datasets in the layouts in which they are handed out."""
