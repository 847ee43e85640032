"""Exploring features: which ones matter, how they are transformed before a model sees them, and pictures of them.

`steps` is what a fitted model replays (numpy alone); `selection`, `transforms` and `reduction` are the scikit-learn
estimators that find it; `fitting` runs the rules of a project file; `discovery` ranks features and pairs in words.
"""
