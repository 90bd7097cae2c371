"""Words: the template language, and the library of shipped templates."""
