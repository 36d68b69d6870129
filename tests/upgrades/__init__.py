"""What stands on topics was written by older programs, and may be by newer ones."""
