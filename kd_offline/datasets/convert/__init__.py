"""Conversion from and to other formats.

``convert`` has the table of all formats. ``minari``, ``vault``, ``d4rl`` and ``hdf5`` each have an
exporter and an importer, which reads what the exporter wrote without loss. The modules beside them
are shared.
"""
