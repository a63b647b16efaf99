"""What else one would train with, timed on the same images: fastai and a plain timm loop, each in its own process."""
