// Package shipped shows that what is shipped works where it is installed: a static binary alone in an empty root,
// without rights and confined; under the restrictions of the unit; and in one ring with nodes of an earlier version.
package shipped
