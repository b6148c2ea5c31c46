"""Foundation of all folders: errors, files, arguments, seeds, work in parallel."""
