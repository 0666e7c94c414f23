"""What can be done to a job: pause, resume, cancel and another pace; or a job that follows it."""
