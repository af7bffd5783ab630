"""Convolutions whose weight exists at the edges of a topology alone."""
