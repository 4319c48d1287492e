"""The explorer: a web page that shows a machine at work; a client of the API of instances.

`web` holds its source in TypeScript, `page` what the browser gets.
"""
