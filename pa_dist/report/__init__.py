"""What people look at: one page, its tables and figures, the viewer, and the terminal."""
