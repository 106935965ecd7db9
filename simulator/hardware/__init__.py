"""Hardware descriptions: data files that become chips."""
