"""One module per layout on disk; each gives its images and objects to a :class:`phidet.data.collector.Collector`."""
