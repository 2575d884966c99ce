"""Random interleavings that look for a row, or a trace, in the wrong customer's schema."""
