"""What people see: the report, plots, notes and the dashboard."""
