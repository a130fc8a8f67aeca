// Package config turns the text of a configuration file into a Config, or into Problems: a list of complaints, each
// with its file and line.
//
// It owns the keys of the file with their types, defaults and limits, the decoder, the mapping of every complaint to a
// line, and the translation of sections into the Config types of the packages that do the work (score, store, cluster),
// so that their own validation runs while the lines are still known. It is the only place that knows the YAML library.
//
// It refuses to know how a node is put together: it builds no part, opens no socket and writes no file. It reads the
// configuration file and the lists that score.allow_file and score.block_file name, and checks that the other files
// exist.
//
// Invariants: a Config that Load or Parse returns has all defaults set and passed Validate. An error of either is
// Problems, or that of reading the configuration file itself.
package config
