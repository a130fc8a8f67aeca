// Package shipped shows that what is shipped works where it is installed: a static binary alone in an empty root,
// without rights and confined, and under the restrictions of the unit.
package shipped
