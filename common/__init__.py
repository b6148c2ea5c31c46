"""What every folder of the project stands on: errors, files, arguments, seeds."""
