"""Scripted disasters on real servers under live writers, judged by the independent checker."""
