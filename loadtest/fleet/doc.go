// Package fleet starts what clusters are tried with, for the commands that do so: processes, nodes alone and as a
// cluster, Redis, HAProxy, and networks whose cables can be cut, or delay, reorder and lose; and it has the senders
// that try again until their message was taken, and who count what became of it.
//
// It owns the processes and the networks until they are ended, and refuses to know what is to be shown with them.
package fleet
