"""What people look at: trajectories as HTML, tokens and their mask, figures. Nothing here imports torch."""
