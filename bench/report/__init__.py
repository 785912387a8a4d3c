"""What the runs add up to: tables and plots."""
