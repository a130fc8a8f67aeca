// Package routes keeps the rules of all nodes the same: in Redis, where one is configured, lies the set that is in
// force, with a version that only grows; each node runs the highest one that it has seen, keeps it in memory and in its
// state folder, and gives it back to a Redis that has lost it.
//
// It owns which set this node runs, the files of the state folder that hold rules, and the merge of changed files into
// the shared set. It refuses to know what a line does: it knows where a statement ends and what it is about, and the
// Router judges each set before it is used or published. It never sees mail.
//
// # Which set a node runs
//
//   - The highest version seen, from Redis or from the state folder. Of two sets with one version, which only a Redis that
//     lost a write can bring about, the one in Redis is in force.
//   - Its own files, as version 0, if it has seen no version.
//   - None, if it has seen one that it cannot run, or if its files cannot be used either. Then it is not ready, and the Router
//     answers 451 4.3.0.
//
// Nothing takes the place of a set but a set that the Router takes: not an absent one, not an older one, not one that
// cannot be read, and not one without any rule.
//
// # Who publishes
//
// Redis is asked for the version each half second. Where it holds none, an older one, or what is no set at all, each
// node that sees it publishes its own by compare-and-set, and one of them succeeds. A set that Redis names and whose
// parts are lost is written again by a node that runs it; if none does for Config.Grace, one publishes its own set as
// the version after. What a later version of this program wrote is left alone. Versions in Redis therefore only grow,
// except when it is emptied or goes back to an older copy, and then every node that remembers a higher one raises it
// again: two versions cannot fight.
//
// Asking was taken rather than publish/subscribe or keyspace notifications because it needs nothing of Redis that a
// restart, a failover, Sentinel or Cluster would lose: a subscriber that was away for a moment has missed the message
// and does not know it, so it would have to ask as well. One short script twice a second costs Redis some microseconds.
//
// # The files
//
// Files are read at start and by Reload. At start they are published only if Redis holds no set. Reload publishes what
// changed in them since they were last taken in, which the state folder remembers, by a three-way merge of statements:
//
//   - A line is the unit. What it is about is its pattern, or "domain NAME", without the case of ASCII letters. Comments and
//     blank lines belong to the set they stand in.
//   - If the shared set is what the files were, the files take its place as they are, comments and order included.
//   - Else each pattern is taken by itself. The files left it as it was: the shared line stays. The shared line is what the
//     files had: it becomes what they have now. Both have the same already: nothing is to be done. Anything else is a
//     conflict, which names the line; then nothing changes anywhere.
//   - A line that is new comes behind the nearest statement before it in its file that the shared set has as well, a regex
//     behind the nearest regex of its domain. The order of regexes, the only one that means something, has to come out as it
//     is in the files wherever they touched it: else that is a conflict too.
//   - The merged set has to satisfy the Router, and is published as the next version by compare-and-set. Who loses that
//     merges again into what won.
package routes
