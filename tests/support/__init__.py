"""What the tests share: fakes, transports in memory, HTTP as bytes."""
