"""Cascades written out as Triton kernels: from a plan and a text to a Python file that runs by itself."""
