"""What is needed to give a trained model away: its card, and programs that run without this package."""
