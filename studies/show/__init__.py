"""What people look at: the dashboard, pictures and notes."""
