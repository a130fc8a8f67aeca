package routes

// A Status is the state of a node's rules and the counters since New.
type Status struct {
	Version uint64 // in force; 0 for the files of this node
	Digest  string // of the rules in force, "" while there are none
	InStep  bool   // Redis held the same rules at the last check
	Trouble string // why the node is not in step; may be empty

	Adopted     uint64 // sets adopted from Redis
	Published   uint64 // sets published from the files of this node
	Republished uint64 // sets published again because Redis did not have them any more
	Refused     uint64 // tries to run a set from Redis that this node cannot run
	Overtaken   uint64 // publications that failed because another node published first
	Unsaved     uint64 // writes of the state folder that failed
}

// The reasons of Anomalies.
const (
	ReasonRefused     = "shared rules cannot be used here"
	ReasonRepublished = "redis had lost the rules"
	ReasonReplaced    = "shared rules were lost and replaced"
	ReasonUnsaved     = "rules cannot be kept in the state folder"
)
