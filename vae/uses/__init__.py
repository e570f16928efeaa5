"""What a trained model is good for: codes, new images, paths between images, damaged images made whole."""
