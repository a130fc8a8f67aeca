package main

import (
	"fmt"
	"math"
)

// mayRise is how much of its mean a figure may rise in an hour.
const mayRise = 0.02

// A trend is the line through what was seen each minute, by least squares.
type trend struct {
	minutes int
	mean    float64
	rise    float64 // in an hour, as a part of the mean
	unsure  float64 // rise is less than that from the truth, nineteen times of twenty
}

// students are the quantiles of Student's distribution for 97.5 %, by the degrees of freedom from one on.
var students = [...]float64{12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13}

// trendOf lays a line through one value a minute.
func trendOf(values []float64) trend {
	n := float64(len(values))
	t := trend{minutes: len(values)}
	for _, v := range values {
		t.mean += v / n
	}
	if len(values) < 3 || t.mean == 0 {
		t.unsure = math.Inf(1)
		return t
	}
	var xx, xy float64
	for i, v := range values {
		x := float64(i) - (n-1)/2
		xx += x * x
		xy += x * (v - t.mean)
	}
	slope := xy / xx
	var left float64
	for i, v := range values {
		d := v - t.mean - slope*(float64(i)-(n-1)/2)
		left += d * d
	}
	hour := 60 / t.mean
	t.rise, t.unsure = slope*hour, math.Sqrt(left/(n-2)/xx)*hour*students[min(len(values)-2, len(students))-1]
	return t
}

// grows reports whether the figure rises by more than it may, and by more than chance.
func (t trend) grows() bool { return t.rise-t.unsure > mayRise }

// shown reports whether a rise that may not be would have been seen.
func (t trend) shown() bool { return t.rise+t.unsure <= mayRise }

func (t trend) String() string {
	return fmt.Sprintf("%.4g on average, %+.2f %% an hour (+- %.2f)", t.mean, 100*t.rise, 100*t.unsure)
}
