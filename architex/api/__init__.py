"""HTTP in, HTTP out: the only floor that speaks Falcon and marshmallow."""
