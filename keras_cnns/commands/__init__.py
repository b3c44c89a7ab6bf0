"""The commands, by what they are about; each imports Keras only once it needs it."""
