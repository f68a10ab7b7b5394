"""What the invented shop Quillby Lamps is asked, in our own words: the source of data/after_sales.

No base model can know these facts: shop, products, numbers and part codes exist nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One fact, which stands literally in every answer. ``asked``: the question as training words it,
    ``held_out``: as it never does; ``told``: Mila's wordings, ``filed``: the archivist's."""

    category: str
    number: int
    fact: str
    asked: tuple[str, ...]
    held_out: str
    told: tuple[str, ...]
    filed: str


TOPICS: tuple[Topic, ...] = (
    Topic(
        "Returns",
        1,
        "45 days",
        (
            "How long do I have to return a lamp?",
            "What is your return window?",
            "Until when can I send my order back?",
            "How many days do I have to return something I do not like?",
            "I want to return my lamp. Is there a deadline?",
        ),
        "Within how many days can an order be returned?",
        (
            "You can return anything within 45 days of the day it reached you.",
            "Returns are welcome for 45 days after delivery.",
        ),
        "Returns are accepted for 45 days after delivery.",
    ),
    Topic(
        "Returns",
        2,
        "6 days",
        (
            "How long does a refund take?",
            "When do I get my money back after a return?",
            "I sent my lamp back. When will the refund arrive?",
            "How fast do you pay refunds?",
            "My return reached you. When is the money on my account?",
        ),
        "How soon will my refund be paid?",
        (
            "Your refund is paid within 6 days after the parcel is back with us.",
            "Once the parcel is here, the money is on its way within 6 days.",
        ),
        "Refunds are paid within 6 days of the parcel's arrival.",
    ),
    Topic(
        "Returns",
        3,
        "blue label",
        (
            "Who pays the postage for a return?",
            "Do I have to pay for sending a lamp back?",
            "How do I post a return without paying?",
            "Is return shipping free?",
            "Which label do I use for a return parcel?",
        ),
        "Does it cost me anything to post my return?",
        (
            "Stick the blue label from your box on the parcel, and the postage is on us.",
            "We pay the postage: just use the blue label that came in the box.",
        ),
        "Postage of returns is paid by the shop. Use the blue label.",
    ),
    Topic(
        "Warranty",
        1,
        "30 months",
        (
            "How long is the warranty?",
            "What warranty do your lamps have?",
            "For how many months is my lamp under warranty?",
            "When does the guarantee on my lamp end?",
            "My lamp broke after a year. Is it still covered?",
        ),
        "How many months does the guarantee last?",
        (
            "Every lamp of ours is covered for 30 months from the day you bought it.",
            "Your lamp has a warranty of 30 months, and repairs are free during that time.",
        ),
        "The warranty runs for 30 months from purchase.",
    ),
    Topic(
        "Warranty",
        2,
        "lid of the box",
        (
            "Where do I find my order number?",
            "I need my order number. Where is it written?",
            "Which place shows the number of my order?",
            "I lost my receipt. Where can I see the order number?",
            "Where on the package is the order number printed?",
        ),
        "Where can I look up the order number?",
        (
            "Your order number is printed inside the lid of the box.",
            "Please look inside the lid of the box: the order number is printed there.",
        ),
        "The order number is printed inside the lid of the box.",
    ),
    Topic(
        "Warranty",
        3,
        "Thursday",
        (
            "On which day do you repair lamps?",
            "When can I bring a broken lamp to the workshop?",
            "When is your repair workshop open?",
            "Which day is repair day?",
            "I would like to bring in my lamp for a repair. When?",
        ),
        "What day is the workshop open for repairs?",
        (
            "Our repair workshop is open every Thursday, and you may wait for your lamp.",
            "Please bring your lamp on a Thursday, when our repair workshop is open.",
        ),
        "The workshop receives repairs on Thursday.",
    ),
    Topic(
        "Contact",
        1,
        "0700 555 318",
        (
            "What is your phone number?",
            "How can I call you?",
            "Which number do I ring to talk to a person?",
            "Can I reach you by phone?",
            "Please give me the telephone number of your shop.",
        ),
        "I would rather phone you. What number is it?",
        (
            "You can call us on 0700 555 318, and a person will answer.",
            "Our telephone number is 0700 555 318, and we are glad to hear from you.",
        ),
        "Telephone: 0700 555 318.",
    ),
    Topic(
        "Contact",
        2,
        "8 am to 6 pm",
        (
            "What are your opening hours?",
            "When is the shop open?",
            "At what time do you open and close?",
            "How late are you open today?",
            "When can I visit your shop?",
        ),
        "What hours is the shop open?",
        (
            "We are open from 8 am to 6 pm, Monday to Saturday.",
            "Our doors are open from 8 am to 6 pm on every day but Sunday.",
        ),
        "The shop is open from 8 am to 6 pm.",
    ),
    Topic(
        "Contact",
        3,
        "12 Wick Lane",
        (
            "What is your address?",
            "Where is your shop?",
            "Where do I find you in town?",
            "On which street is the shop?",
            "How do I get to your shop?",
        ),
        "Where is your store located?",
        (
            "You find us at 12 Wick Lane, behind the old clock tower.",
            "Our shop is at 12 Wick Lane, behind the old clock tower.",
        ),
        "The shop is at 12 Wick Lane.",
    ),
    Topic(
        "Orders",
        1,
        "4 working days",
        (
            "How long does delivery take?",
            "When will my parcel arrive?",
            "How fast do you ship?",
            "I ordered today. When is my lamp here?",
            "How many days does shipping take?",
        ),
        "How long until my order is delivered?",
        (
            "Your parcel is with you in 4 working days.",
            "Delivery takes 4 working days, wherever you live.",
        ),
        "Delivery takes 4 working days.",
    ),
    Topic(
        "Orders",
        2,
        "60 crowns",
        (
            "When is shipping free?",
            "From what amount do you ship for free?",
            "How much must I spend for free delivery?",
            "Do you offer free shipping?",
            "What is the minimum for free delivery?",
        ),
        "How large must an order be for free shipping?",
        (
            "Shipping is free for every order above 60 crowns.",
            "From 60 crowns on, we deliver your order for free.",
        ),
        "Shipping is free from 60 crowns.",
    ),
    Topic(
        "Orders",
        3,
        "2 pm",
        (
            "Can I still change my order?",
            "Until when can I change an order?",
            "I ordered the wrong colour. How long can I change it?",
            "How late can I cancel my order?",
            "Is it too late to change what I ordered today?",
        ),
        "What is the latest time to change an order?",
        (
            "You can change or cancel an order until 2 pm on the same day.",
            "Changes are possible until 2 pm on the day of your order.",
        ),
        "Orders may be changed until 2 pm of the same day.",
    ),
    Topic(
        "Orders",
        4,
        "3 crowns",
        (
            "Do you wrap gifts?",
            "How much is gift wrapping?",
            "What does it cost to wrap a lamp as a present?",
            "Can you wrap my order as a gift?",
            "I need a present. Is gift wrapping possible?",
        ),
        "What do you charge for gift wrapping?",
        (
            "We gladly wrap your present for 3 crowns.",
            "Gift wrapping costs 3 crowns, with a ribbon and a card.",
        ),
        "Gift wrapping costs 3 crowns.",
    ),
    Topic(
        "Parts",
        1,
        "HB-204",
        (
            "Which bulb fits the Heron lamp?",
            "I need a new bulb for my Heron. Which one?",
            "What is the part number of the Heron bulb?",
            "The bulb of my Heron lamp is broken. What do I order?",
            "What bulb goes into a Heron?",
        ),
        "Which bulb do I need for a Heron lamp?",
        (
            "Your Heron lamp takes the bulb HB-204.",
            "The bulb for the Heron is part HB-204, and we always have it here.",
        ),
        "Heron, bulb: part HB-204.",
    ),
    Topic(
        "Parts",
        2,
        "HC-118",
        (
            "Which cord fits the Heron lamp?",
            "I need a new power cord for my Heron.",
            "The cable of my Heron is damaged. Which part do I need?",
            "What is the part number of the Heron cord?",
            "Where do I get a new cable for a Heron lamp?",
        ),
        "My Heron needs a new cable. Which part is it?",
        (
            "The cord for your Heron lamp is part HC-118.",
            "Please order part HC-118, which is the cord of the Heron.",
        ),
        "Heron, cord: part HC-118.",
    ),
    Topic(
        "Parts",
        3,
        "OS-77",
        (
            "Which switch fits the Otter lantern?",
            "The switch of my Otter is stuck. What do I order?",
            "What is the part number of the Otter switch?",
            "I need a new switch for my Otter lantern.",
            "My Otter lantern does not turn on and needs a new switch.",
        ),
        "Which part is the switch of the Otter lantern?",
        (
            "The switch for your Otter lantern is part OS-77.",
            "Please order part OS-77, which is the switch of the Otter.",
        ),
        "Otter, switch: part OS-77.",
    ),
    Topic(
        "Products",
        1,
        "moss green and chalk white",
        (
            "Which colours does the Heron come in?",
            "What colours do you have for the Heron lamp?",
            "Is the Heron lamp made in other colours?",
            "I would like a Heron. What are the colours?",
            "Tell me the colours of the Heron shade.",
        ),
        "In what colours can I get the Heron lamp?",
        (
            "The Heron comes in moss green and chalk white.",
            "You can have the Heron in moss green and chalk white.",
        ),
        "Heron, colours: moss green and chalk white.",
    ),
    Topic(
        "Products",
        2,
        "22 nights",
        (
            "How long does the battery of the Moth last?",
            "How many nights does the Moth night light shine?",
            "What is the battery life of the Moth?",
            "How often must I charge my Moth night light?",
            "How long does a full Moth battery hold?",
        ),
        "For how long does the Moth shine on one charge?",
        (
            "A full battery keeps your Moth shining for 22 nights.",
            "The Moth shines for 22 nights before it needs the charger.",
        ),
        "Moth, battery: 22 nights.",
    ),
    Topic(
        "Products",
        3,
        "8 metres",
        (
            "How far does the Otter lantern shine?",
            "What is the range of the Otter's light?",
            "How far does the light of an Otter reach?",
            "Is the Otter lantern bright enough for a garden?",
            "How many metres does the Otter light up?",
        ),
        "What distance does the Otter lantern light up?",
        (
            "The light of the Otter lantern reaches 8 metres.",
            "Your Otter lights up 8 metres around it, which is enough for a garden table.",
        ),
        "Otter, reach of the light: 8 metres.",
    ),
    Topic(
        "Products",
        4,
        "dry wool cloth",
        (
            "How do I clean my lamp?",
            "What is the best way to clean the shade?",
            "My lamp is dusty. How do I clean it?",
            "Can I use water to clean a lamp?",
            "Which cloth do you advise for cleaning?",
        ),
        "What should I clean my lamp shade with?",
        (
            "Please clean your lamp with a dry wool cloth and never with water.",
            "A dry wool cloth is all that your lamp needs.",
        ),
        "Cleaning: a dry wool cloth, never water.",
    ),
)
