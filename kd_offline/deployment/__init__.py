"""What travels with a team, and whether it fits where it arrives."""
