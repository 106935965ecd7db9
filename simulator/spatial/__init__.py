"""Spatial accelerators: arrays of processing elements around a hierarchy of memories."""
