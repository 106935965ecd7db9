"""Any cascade on a GPU: which Einsums share a kernel, what a thread block of it does, and how long all of it takes."""
