"""What is known of a guest that failed, and what its user can try."""
