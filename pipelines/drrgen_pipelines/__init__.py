"""Data sets of radiographs: discover, name, split, render, write the manifest."""
