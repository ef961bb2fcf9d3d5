"""Recordings of people who move, from files to windows on the device."""
