"""What real parties do and keep: one module for each role of each trust model.

roles.py says what every role has and which module plays which one; keeping.py has what they keep on
disk. Another trust model adds its modules here and its lines to the table in playing.py.
"""
