"""What people read: runs side by side as tables, pictures and one page, and plans and scores on the terminal."""
