// Package routes keeps the rules of all nodes the same. If a Redis is configured, it holds the set in force, with a
// version that only grows. Each node runs the highest version that it has seen, keeps it in memory and in its state
// folder, and publishes it again if Redis does not have it any more.
//
// It owns which set this node runs, the files of the state folder that hold rules, and the merge of changed files into
// the shared set. It refuses to know what a line does: it knows where a statement ends and its subject, and the Router
// checks each set before it is used or published. It never sees mail.
//
// # Which set a node runs
//
//   - The highest version seen, from Redis or from the state folder. Of two sets with the same version, which only a
//     Redis that lost a write can cause, the one in Redis is in force.
//   - Its own files, as version 0, if it has seen no version.
//   - No set, if it has seen only one that it cannot run, or if its files cannot be used. Then it is not ready, and the
//     Router answers 451 4.3.0.
//
// A set is replaced only by a set that the Router accepts. A missing set, an older one, one that cannot be read and one
// without any rule do not replace it.
//
// # Which node publishes
//
// Each node asks Redis for the version each half second. If Redis holds no set, an older one or an unreadable one, each
// node that sees it publishes its own set by compare-and-set, and one of them succeeds. If Redis names a set whose
// parts are missing, a node that runs the set writes it again. If none does for 30 s, a node publishes its own set as
// the next version. A set of a later version of this program is not replaced. Therefore versions in Redis only grow,
// except if Redis is emptied or restored from an older copy. Then each node that remembers a higher version publishes
// that again, so that two versions cannot alternate.
//
// The nodes poll, and do not use publish/subscribe or keyspace notifications. Polling needs nothing of Redis that a
// restart, a failover, Sentinel or Cluster could lose. A subscriber that was disconnected for a moment has missed a
// message without noticing, so it would have to poll as well. One short script twice a second costs Redis some
// microseconds.
//
// # The files
//
// Files are read at start and by Reload. At start they are published only if Redis holds no set. Reload publishes what
// changed in the files since the baseline, their state at the last publication or merge, which the state folder keeps.
// It merges three-way by statements:
//
//   - The unit is a line. Its subject is its pattern with the words that say when the rule is in force, or "domain
//     NAME", or "relay NAME", with ASCII letters in lower case. Comments and blank lines are not merged.
//   - If the shared set is the baseline, the files replace it as they are, with comments and order.
//   - Otherwise each subject is merged on its own. If the files did not change it, the shared line stays. If the shared
//     line is that of the baseline, it becomes the line of the files. If both are the same, nothing is to be done. Any
//     other case is a conflict, which names the line, and nothing changes anywhere.
//   - A new line is inserted behind the nearest statement before it in its file that the shared set has as well, and an
//     ordered one behind the nearest of its group. The order matters of the regexes of a domain, of its globs, and of
//     the rules of a pattern that are not always in force. If the files changed such a group, its order in the merged
//     set has to be that of the files, or it is a conflict.
//   - The Router has to accept the merged set, which is then published as the next version by compare-and-set. A node
//     that loses the race merges again, with the set that won.
package routes
