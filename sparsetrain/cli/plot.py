"""The picture of a race: loss, accuracy, time and memory."""
