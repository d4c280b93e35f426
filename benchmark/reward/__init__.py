"""Vision reward: judges that answer yes/no questions about a clip, and the score that follows from their answers."""
