"""The product as a package: built, installed where nothing of ours is, and run there."""
