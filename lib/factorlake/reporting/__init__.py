"""What a run tells people: the HTML report, the terminal summary, metrics as JSON, and progress lines."""
