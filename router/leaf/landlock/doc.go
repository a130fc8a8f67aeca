// Package landlock takes rights to the file system from a process, for good. It owns the three system calls of
// Linux's Landlock (landlock(7)), with which a process needs no rights to bind itself, and refuses to know what the
// process is for. Reading is not touched: a file that another one has taken the place of can be read anew.
package landlock
