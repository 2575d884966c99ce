"""What is computed with each flush: observers and aggregated columns."""
