"""What is changed on an instance on its way: pure functions on datasets and files, run in processes of their own."""
